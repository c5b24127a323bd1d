"""From a teacher to a task: a small model learns the answers of a large one."""
