"""Features and labels of videos → a head, by multiple-instance learning.

In: features, labels of videos.
Out: checkpoints of heads.
Imports: data, evaluation, stream_detector.
"""
