"""Requests that several tests submit."""

JOB = {
    "items": [{"class_label": 3, "id": "three", "metadata": {"sku": "A-1"}}, {"class_label": 7, "steps": 3}],
    "images_per_item": 5,
    "steps": 6,
    "guidance_scale": 2.0,
    "seed": 7,
}
LONG = {
    "items": [{"class_label": label} for label in range(10)],
    "images_per_item": 16,
    "steps": 24,
    "guidance_scale": 1.0,
    "seed": 1,
}
