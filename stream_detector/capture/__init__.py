"""Sources and cameras → windows of 16 frames.

In: addresses of cameras and files.
Out: windows, camera states, previews for people.
Imports: models (recipes), config, types, system, errors.
"""
