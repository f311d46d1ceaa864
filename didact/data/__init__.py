"""From files to packed rows."""
