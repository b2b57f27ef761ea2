"""Tables of annotation tools as events: Raven, Audacity, BirdNET, ELAN, plain tables.

Here: what each tool writes, and which recording a row is about. What cannot be read in one way only
is refused, with the file and the row. Not here: what becomes of the events (`own_data`).
"""
