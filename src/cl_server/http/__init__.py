"""What every HTTP service of ours needs and none of them is about: errors, access, fields, serving."""
