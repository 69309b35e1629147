"""From a wish to a ranked list with evidence: the loop over proposing, screening, relaxing, judging and measuring."""
