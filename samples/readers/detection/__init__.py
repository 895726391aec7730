"""Published annotations of all objects of a picture: one row a picture, of the task `detection`.

objects   what these readers share: the row of a picture, its classes, objects outside of it
dota      DOTA's label files, and mmrotate's tiles        fair1m    FAIR1M's XML
dior      DIOR's XML, boxes along the axes or oriented    vhr10     NWPU VHR-10's text files
coco      COCO's JSON                                     yolo_obb  Ultralytics' YOLO-OBB
"""
