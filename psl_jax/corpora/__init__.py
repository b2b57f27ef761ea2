"""What people have on disk: AudioSet, FSD50K, FSDKaggle, a folder of one's own, soundscapes.

Here: tables and their names, file names and layouts of each corpus, as rows that say where audio
lies. Not here: how rows become shards (`preparing`).
"""
