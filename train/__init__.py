"""The online stage: clips out of shards to checkpoints, metrics, predictions and exports."""
