"""Addresses of the pages."""

from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from usage.dashboards import views

urlpatterns = [
    path("", views.home, name="home"),
    path("login/", LoginView.as_view(redirect_authenticated_user=True), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("names/", views.names, name="names"),
    path("platform/", views.platform_dashboard, name="platform-dashboard"),
    path("platform/sources/", views.sources, name="sources-page"),
    path("tenants/<slug:slug>/", views.tenant_dashboard, name="tenant-dashboard"),
    path("what-changed/", views.what_changed_page, name="what-changed"),
    path("runs/", views.runs, name="runs"),
    path("traces/<uuid:trace_id>/", views.trace_page, name="trace"),
    path("users/<uuid:user_id>/", views.user_dashboard, name="user-dashboard"),
]
