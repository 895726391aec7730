"""Large scenes cut into tiles that overlap, for models that see one tile at a time.

classes    class lists by name
cutting    the parameters, and the published ones as presets
windows    which tiles a scene has
names      the name of a tile says where it comes from: P0706__1__412___824
objects    which objects a tile has, and their label file
scenes     scenes to be cut, with their objects or without
manifest   how a folder was cut, so that a second run continues and another one is refused
cut        scenes → a folder of tiles
"""
