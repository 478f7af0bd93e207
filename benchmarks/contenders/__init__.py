"""Against whom rearec is measured. Imported in the environments of other libraries too: nothing is imported here."""
