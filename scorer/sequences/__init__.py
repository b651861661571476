"""The users' histories, embedded in every process that scores or trains: followed from Kafka, stored in RocksDB."""
