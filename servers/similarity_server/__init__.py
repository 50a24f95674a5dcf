"""Serves nearest-neighbour search over embeddings of past market states, with FAISS.

Reading: `artifact` reads the states that an export wrote, `building` makes a searchable index of
them, `snapshot` keeps it on disk, `loading` chooses between the two. Searching: `index` merges the
answers of its `main_index` and of the states `added` since, `filters` says which states count,
`outcomes` sums up what came of them. Changing: `keeper` stores in the `state_log` (Postgres is the
source of truth), shows the change, merges and writes snapshots. `servicer` speaks
`tradeserve.similarity.v1`.

Without a database, states that are added or deleted change this process's memory only.
"""
