"""Previews of a model: samples and reconstructions."""
