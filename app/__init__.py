"""What a person touches: the command line. Imported as `lacache_app`; knows files and terminals, never ctypes."""
