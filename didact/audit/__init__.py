"""Looks at data and models: the X-ray, the laws, the doctor."""
