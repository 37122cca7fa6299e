"""Videos → windows, features and labels.

In: videos, annotations, clips with an index.
Out: features, bags, packed frames.
Imports: stream_detector.
"""
