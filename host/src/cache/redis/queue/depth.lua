
-- How much is in the partition.
return depth()
