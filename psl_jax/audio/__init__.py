"""Sound before it is anything else: rates, segments, decoding, resampling.

Here: the sample rate, where a clip is cut, files and waveforms as 16 kHz mono. Not here: labels,
networks, spectrograms.
"""
