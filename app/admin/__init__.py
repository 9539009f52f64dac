"""The dashboard under `/admin`: pages for administrators, drawn on the server.

A part of it is a blueprint, made by a function that receives what it shows as protocols, and listed as a
`Page` in `app.factory`. Its templates extend `base.html` and take what `macros.html` and the filters of
`app.admin.application` offer. It is protected without doing anything for it: only admins get there, every
form needs its `csrf_token`, and the Content-Security-Policy allows no script and no style inside a page.
Elements marked `data-live`, with an id, are drawn anew where `<body data-every>` says how often.
`flask_login.current_user.name` is who acts. `ask` asks the store for something the page can do without.
"""

from app.admin.application import Page, dashboard_app
from app.admin.ports import Accounts, EndedSessions, Entrance

__all__ = ["Accounts", "EndedSessions", "Entrance", "Page", "dashboard_app"]
