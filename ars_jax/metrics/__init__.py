"""Overlap and surface-distance metrics of label maps, in NumPy and SciPy, distances in millimetres.

What is said where a mask is empty, in every convention:

| reference | prediction | status | DSC, surface Dice | recall | precision | HD95, ASD | counted as |
|---|---|---|---|---|---|---|---|
| there | there | ok | by definition | by definition | by definition | by definition | a case |
| there | empty | miss | 0 | 0 | undefined | undefined | a case and a miss |
| empty | there | false alarm | 0 | undefined | 0 | undefined | a case and a false alarm |
| empty | empty | absent | undefined | undefined | undefined | undefined | nothing |
| nobody drew it | any | unlabelled | undefined | undefined | undefined | undefined | nothing |

An undefined value is None, null in JSON and an empty field in CSV, and takes no part in a mean: never NaN, infinity or
a stand-in such as the image's diagonal. A mean distance so leaves out just the cases that went worst; the misses and
false alarms stand beside it in every table, and only the runs with fewest of them can be the best in a distance.
"""
