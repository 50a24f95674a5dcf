"""Serves nearest-neighbour search over embeddings of past market states, with FAISS.

`index` loads and searches the states, `added` holds those added since, `servicer` speaks
`tradeserve.similarity.v1`.

What is not durable yet: states added with AddStates live in this process's memory and are gone
when it stops. The writer keeps them (Postgres is the source of truth) and adds them again; adding
is idempotent by state_id.
"""
