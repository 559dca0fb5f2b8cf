"""What every room needs: files, tables, parallel work, progress, resumable jobs."""
