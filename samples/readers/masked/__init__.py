"""Published sets whose truth is masks, as rows of the task `segmentation`.

pictures    masks in pictures, and in polygons whose corners are pixels
refgeo      refGeo with its masks, as RSCoVLM trains on it       geopixel    GeoPixelD's descriptions with masks
"""
