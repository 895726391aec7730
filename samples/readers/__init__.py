"""Reading data as it lies on disk: from files, folders and tables to records that become Samples.

look            what lies at a path; `formats` tells by it which format that is, and is the registry of all
rows, tables    rows of JSON and JSONL (`json_list` streams lists), of parquet, of the hub and of what `datasets` saved;
                faults; where images lie (`names`: why one is not found); `encoding`: what is no UTF-8
records         what the converters share; `checks` is what every record must satisfy
conversations   VHM, VG-DIOR, ShareGPT, LLaVA lists       geochat      GeoChat, VRSBench's training rows
vrsbench        VRSBench                                   rsvqa        RSVQA
rsvg            DIOR-RSVG                                  lhrs_bench   LHRS-Bench
questions       refGeo, LRS-VQA, LRS-GRO                   detection    all objects of a picture: DOTA and others
choice          CHOICE; `options`: lettered options        captions     several captions for each image
scenes          folders of classes                         rl_rows      ScoreRS's and TRL's rows for RL
million_aid     folders of classes in levels               eurosat      EuroSAT's splits, in colour and in bands
masked          refGeo's masks, GeoPixelD
"""
