"""Rows about one place at several times: sequences and pairs of pictures, masks of change.

series        pictures in the order of their dates, and at most so many of a row
footprints    polygons as WKT, as TEOChatlas writes them, and their masks
teochatlas    TEOChatlas: fMoW, xBD, S2Looking, QFabric, CDVQA, ABCD and GeoChat's, as conversations
change_masks  LEVIR-CD and LEVIR-MCI: pairs of pictures with a mask of what has changed
dubai_cc      captions of change of pairs from 2000 and 2010
cdvqa         questions about change, in RSVQA's layout with pairs of pictures
geobench_vlm  GEOBench-VLM: questions with options in several paraphrases, Single and Temporal
earthdial     EarthDial's shards: one to four pictures in the columns of a saved table
"""
