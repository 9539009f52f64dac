"""The dashboard under `/admin`: pages for administrators, drawn on the server.

A part of it is a blueprint, made by a function that receives what it shows, and listed as a
`Page` in `app.factory`. Its templates extend `base.html` and take what `macros.html` and the filters of
`app.admin.application` offer. It is protected without doing anything for it: only admins get there, every
form needs its `csrf_token`, and the Content-Security-Policy allows no script and no style inside a page.
A page becomes live as `app.admin.live` says.
`flask_login.current_user.name` is who acts. `ask` asks the store for something the page can do without.
"""

from app.admin.application import Page, dashboard_app
from app.admin.ports import AuthConfig

__all__ = ["AuthConfig", "Page", "dashboard_app"]
