"""Asking a model behind an OpenAI-compatible address about many rows.

sections   what a recipe says about the endpoint and about money
client     one request: pictures, repetitions, waits, the key, a malformed reply sent back once
cost       what the requests are estimated to cost, and what they have cost
questions  a recipe's questions as requests
kept       what the starts of a run used, and which questions were refused
asking     many rows at a time, until they are done, too many fail in succession, or the money is spent; what is
           finished is kept on disk for the next start
"""
