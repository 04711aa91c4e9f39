"""A training stage as a Kubeflow TrainJob."""
