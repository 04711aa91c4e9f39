"""The stages of the pipelines. `entry` reads the environment; the other modules take paths, settings and stores."""
