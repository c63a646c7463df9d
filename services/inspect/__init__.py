"""The inspect service: looks at an image before anything is measured; runs `inspect` and `cleanup`."""
