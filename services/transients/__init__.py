"""The search for transients by catalogues: what is in the image and in no survey."""
