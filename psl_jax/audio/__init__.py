"""Sound: sample rate, segments, decoding, resampling.

Here: the sample rate, the segments of a clip, files and waveforms as 16 kHz mono. Not here: labels,
networks, spectrograms.
"""
