# Unproved: nobody has run this on a Nomad yet. A test holds its numbers to compose.yaml's, and no more.
# nomad var put nomad/jobs/shop database_url=… migration_database_url=…
# nomad job run -var image=registry.example.com/shop-app:RELEASE -var proxies=10.0.0.0/24 deploy/nomad/app.nomad.hcl
variable "image" { type = string }
variable "proxies" { type = string } # the networks of what stands before it, as FORWARDED_ALLOW_IPS

job "shop" {
  group "app" {
    count = 2
    network {
      port "app" { to = 8000 }
      port "ready" { to = 8001 }
    }
    # As many of the new release first; when they are ready, they take over. Else the old ones stay.
    update {
      canary            = 2
      auto_promote      = true
      auto_revert       = true
      min_healthy_time  = "10s"
      healthy_deadline  = "2m"
      progress_deadline = "5m"
    }
    service {
      name     = "shop"
      port     = "app"
      provider = "nomad"
      check {
        type     = "http"
        port     = "ready"
        path     = "/ready"
        interval = "1s"
        timeout  = "1s"
      }
    }
    # Before each app: several at one time are one migration.
    task "migrate" {
      lifecycle { hook = "prestart" }
      driver = "docker"
      user   = "10002:10002"
      config {
        image           = var.image
        command         = "/opt/stack/bin/migrate"
        init            = true
        readonly_rootfs = true
        cap_drop        = ["all"]
        pids_limit      = 64
        mount {
          type   = "tmpfs"
          target = "/tmp"
          tmpfs_options { size = 67108864 }
        }
      }
      template {
        data        = "STACK_DATABASE_URL={{ with nomadVar \"nomad/jobs/shop\" }}{{ .migration_database_url }}{{ end }}"
        destination = "secrets/env"
        env         = true
      }
      resources { memory = 256 }
    }
    task "app" {
      driver       = "docker"
      user         = "10001:10001"
      kill_timeout = "30s"
      config {
        image           = var.image
        ports           = ["app", "ready"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        pids_limit      = 1024
        mount {
          type   = "tmpfs"
          target = "/tmp"
          tmpfs_options { size = 67108864 }
        }
      }
      env {
        STACK_FORWARDED_ALLOW_IPS = var.proxies
        STACK_REPLICAS            = 2
        STACK_SURGE               = 2
      }
      template {
        data        = "STACK_DATABASE_URL={{ with nomadVar \"nomad/jobs/shop\" }}{{ .database_url }}{{ end }}"
        destination = "secrets/env"
        env         = true
      }
      resources { memory = 512 }
    }
  }
}
