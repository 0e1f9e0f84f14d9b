"""Lists of vectors by cluster, on a disk: made shard by shard, merged, and searched where they lie."""
