"""Tables, curves and overlays of finished runs, as one HTML page."""
