"""Pictures of a model's samples and reconstructions."""
