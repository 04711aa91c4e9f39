"""Runs pipelines: on this machine or on a Kubeflow cluster."""
