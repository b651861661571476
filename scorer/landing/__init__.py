"""From topics to the trainer: bounded reads of Kafka, examples and their resolved histories. Below it, no Kafka."""
