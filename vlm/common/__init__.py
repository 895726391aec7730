"""The few words that everybody needs.

errors                what is the user's to correct
console processes     what is said on a terminal, by one of the processes
redaction addresses   what must not leave
telemetry             libraries that report to somebody else, switched off
bootstrap best_of     statistics
figures               how our figures look
"""
