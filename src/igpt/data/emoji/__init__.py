"""The bundled images: emoji.png and emoji.csv, made by build.py."""
