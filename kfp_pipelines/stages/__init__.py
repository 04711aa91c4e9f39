"""What each stage does. `entry` reads the environment; the other modules take paths, settings and stores."""
