"""What a model is, what it sees and what it says. Imports nothing else of ours.

common/                    the few words that everybody needs: errors, telemetry, redaction, statistics
loading weights adapters export sections   the model
shapes inventory           its sizes, by arithmetic
prefix/ rollout            each prompt computed once
pictures/ boxes/           what it is shown, and where things are in it (and CLIP, which compares pictures and texts)
prompts answers numerals   what it is asked, and what it says
"""

from vlm.common.names import claim_names

claim_names()
