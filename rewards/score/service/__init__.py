"""The score model behind HTTP: `launch/serve.py` serves one, `ScoreClient` asks one or more replicas for scores.

    server                                              client
    stage.py     loads, binds, runs                     client.py    chunks, spreads, retries
    server.py    routes, limits                         replicas.py  which replica is asked next
    batching.py  requests → batches of the model
    connections.py  who is too slow to ask
                     wire.py  the JSON between them; token.py  the secret between them

recipe.py holds what a recipe says of it. The service replaces that of the published code (one request per completion,
no time-out, three failures counted as 0).
"""

from rewards.score.service.client import ScoreClient

__all__ = ["ScoreClient"]
