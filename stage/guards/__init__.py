"""What keeps a run honest while it trains.

    finite          steps whose loss or gradient is not finite are skipped, counted, dumped, and not endured for long
    progress        which phase this process is in
    watchdog        who hangs, in which phase, where in the code
    out_of_memory   what in this recipe would help most, computed
    broken_gpu      an error after which a GPU computes no more
    lock            one run in a folder at a time
    disk            a full disk costs what a run can do without
    peers           an error that only says that another process has gone

docs/reliability.md says what is promised.
"""
