"""The machinery under the public functions: pairs of queries and keys in tiles, the loops over them, the way round the
ranks. Nothing here checks a user's arguments but `inputs`."""
