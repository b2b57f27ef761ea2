"""Sound: sample rate, segments, decoding, resampling.

Here: the sample rate, the segments of a clip, files and waveforms as 16 kHz mono. Not here: labels,
networks, spectrograms. `libsndfile_reader` reads wav, flac, aiff and the like; `ffmpeg_reader`
reads mp3, ogg, opus, m4a, video and whatever libsndfile does not.
"""
