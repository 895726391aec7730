"""What can go wrong between somebody who needs scores and the service that gives them.

A failure is never a score: whoever catches one of these masks the row or stops, and books no 0.
"""

from vlm.common.errors import UserError


class ScorerUnavailable(UserError):
    """No replica gave scores within the client's patience; the message names the URLs and the last causes."""


class ScorerRefused(UserError):
    """A replica answered that the request itself is wrong (token, size, content), or serves another model.

    Asking again would not help, so it is not retried.
    """
