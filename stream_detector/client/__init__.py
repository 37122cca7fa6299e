"""Events as a subscriber gets them: once, in order, across gaps and restarts.

In: an endpoint.
Out: messages, and a cursor that survives the process.
Imports: events (protocol, CURVE, endpoints), config, system, types, errors; neither PyTorch nor OpenCV.
"""
