"""Code that users bring, rewards and tools: imported by name, called with a time limit, named in messages.

importing.py  from `pkg.module:function` or `path/file.py:function` to the object
timed.py      a call with a time limit
places.py     where such code stands
"""
