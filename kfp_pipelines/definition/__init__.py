"""The pipelines as KFP defines them: components, variants and their parameters."""
