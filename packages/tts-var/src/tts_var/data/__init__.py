"""The small world: drawn images of coloured objects, captions in GenEval's six categories, and an exact checker."""
