{{ config(materialized='view') }}
select * from {{ ref('stg_canonical__events') }}
union all by name
select * from {{ ref('stg_online_retail__events') }}
union all by name
select * from {{ ref('stg_stackexchange__events') }}
union all by name
select * from {{ ref('stg_amazon_reviews__events') }}
union all by name
select * from {{ ref('stg_complete_journey__events') }}
